-- RECEIVE from a FIFO queue: ARGV as for receive.lua. Answers the same and then the sequence numbers.
--
-- Invariant: messages of a group are taken in order, and none while another of its messages is in flight.
-- As many as possible come from one group, then from the next: "Amazon SQS attempts to return as many messages
-- with the same message group ID as possible". A message whose receive count would exceed max_receive_count
-- moves to the dead-letter queue instead, with its id and group but a new enqueue time, and lets the rest of
-- its group overtake it.

local wanted, seed = tonumber(ARGV[1]), ARGV[2]
local time, rest = now()
local now_us, stamp = time * 1000, tostring(time)
local settings = queue_settings()
settle(1000, seed, time, rest, settings)

local visibility = settings.visibility_timeout
local hidden_until = (time + (tonumber(ARGV[3]) or visibility) - 1) * 1000
local most_receives, dead_letter_queue = settings.max_receive_count, settings.dead_letter_queue

local marks, bodies, all_details, numbers = {}, {}, {}, {}

local function dead_letter(id, group, content)
  local letter = read_details(redis.call('HGET', details, id))
  letter.dead_letter_source = inbox
  local entry = stamp .. string.sub(redis.call('HGET', state, id), 14)
  enqueue(dead_letter_queue, id, group, content, entry, cjson.encode(letter), time, now_us)
  take_out({ id }, time)
  wake(dead_letter_queue)
end

-- Takes what it may of one group; gives how many messages.
local function take_from(group)
  local taken, id = 0, next_of(group, 0, 1)[1]
  while id and #bodies < wanted and not redis.call('ZSCORE', delayed, id) do
    local content = redis.call('HGET', body, id)
    local enqueued, receives, first = read_state(redis.call('HGET', state, id))
    receives, first = receives + 1, first or stamp
    if not content then
      take_out({ id }, time) -- its body was deleted by hand
    elseif most_receives and receives > most_receives then
      dead_letter(id, group, content)
    else
      taken = taken + 1
      local at = #bodies + 1
      local mark = enqueued .. ' ' .. receives .. ' ' .. first .. ' ' .. seed
      local _, number = placed(id)
      marks[2 * at - 1], marks[2 * at], bodies[at], numbers[at] = id, mark, content, number
      all_details[at] = redis.call('HGET', details, id)
      redis.call('HSET', state, id, mark)
      redis.call('ZADD', in_flight, hidden_until + at, id)
    end
    id = next_of(group, taken, 1)[1]
  end
  return taken
end

while #bodies < wanted do
  local group = redis.call('ZRANGEBYSCORE', ready, '-inf', now_us, 'LIMIT', 0, 1)[1]
  if not group then
    break
  end
  local taken = take_from(group)
  if taken > 0 then
    redis.call('HSET', blocked, group, taken)
    redis.call('ZREM', ready, group)
  else
    release(group, 0) -- its first message is delayed, or it has none left
  end
end

local unseen, left = redis.call('LLEN', inbox), 0
for _, group in ipairs(redis.call('ZRANGEBYSCORE', ready, '-inf', now_us, 'LIMIT', 0, 100)) do
  left = left + redis.call('ZLEXCOUNT', order, '[' .. group .. ' ', '(' .. group .. '!')
end
local wait = 0
if unseen + left > 0 then
  if unseen == 0 then
    redis.call('RPUSH', inbox, '') -- invariant 3
  end
else
  wait = next_deadline(time, visibility, ready)
end
local slow = settings.faults and read_faults().slow or 0
return { wait, unseen + left, slow, marks, bodies, all_details, numbers }
