-- REDRIVE of a FIFO queue: ARGV, answer and invariant as for redrive.lua.
--
-- Invariant: messages of a group keep their order, and none is moved past another of its group that stays.

local time, rest = now()
if redis.call('SCARD', inbox .. ':sources') == 0 then
  return -1
end
local _, derived_id = inbox_readers()
local seed, most, destination = ARGV[1], tonumber(ARGV[2]), ARGV[3]
settle(1000, seed, time, rest, queue_settings())
local moved = 0

local function move(group, id)
  local content = redis.call('HGET', body, id)
  local letter = read_details(redis.call('HGET', details, id))
  local to = destination ~= '' and destination or letter.dead_letter_source
  if not to or not content then
    return false
  end
  letter.dead_letter_source = nil
  moved = moved + 1
  local new = derived_id(seed .. 'moved', moved)
  enqueue(to, new, group, content, tostring(time), cjson.encode(letter), time, time * 1000)
  wake(to)
  take_out({ id }, time)
  return true
end

for _, group in ipairs(redis.call('ZRANGEBYSCORE', ready, '-inf', time * 1000)) do
  repeat
    local id = next_of(group, 0, 1)[1]
  until moved == most or not id or redis.call('ZSCORE', delayed, id) or not move(group, id)
end
wake_if_ready(time)
return moved
