-- PEEK into a FIFO queue: ARGV as for peek.lua. Answers the same and then the sequence numbers.
--
-- Invariant: receive counts, handles and visibility stay as they are. Messages in flight are not shown, those
-- of all groups in the order in which they were sent.

local time, rest = now()
settle(10000, ARGV[2], time, rest, queue_settings())
wake_if_ready(time)
local waiting = {}
for _, member in ipairs(redis.call('ZRANGE', order, 0, -1)) do
  local number, id = string.match(member, '^%S+ (%S+) (%S+)$')
  if not redis.call('ZSCORE', in_flight, id) and redis.call('HEXISTS', body, id) == 1 then
    waiting[#waiting + 1] = { number, id }
  end
end
table.sort(waiting, function(one, other)
  return one[1] < other[1]
end)
local marks, bodies, all_details, numbers = {}, {}, {}, {}
for index = 1, math.min(#waiting, tonumber(ARGV[1])) do
  local number, id = unpack(waiting[index])
  marks[2 * index - 1], marks[2 * index] = id, redis.call('HGET', state, id)
  bodies[index], all_details[index] = redis.call('HGET', body, id), redis.call('HGET', details, id)
  numbers[index] = number
end
return { marks, bodies, all_details, numbers }
