-- Prelude of every script that reads the time.
--
-- Invariant: all times are milliseconds of one clock, the server's own TIME plus the offset in
-- `local_sqs:clock`. The offset only grows (advance_clock.lua), so this clock never runs backwards
-- relative to the server's, and no client's clock is ever consulted.
--
-- Gives whole milliseconds, and as a second value the rest in whole microseconds.

local function now()
  local time = redis.call('TIME')
  local offset = redis.call('GET', 'local_sqs:clock')
  return time[1] * 1000 + math.floor(time[2] / 1000) + (tonumber(offset) or 0), time[2] % 1000
end
