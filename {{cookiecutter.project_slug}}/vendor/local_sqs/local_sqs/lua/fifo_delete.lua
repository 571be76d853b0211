-- DELETE from a FIFO queue: ARGV and answers as for delete.lua.
--
-- Invariant: only the newest receipt handle of a message deletes it, and only while the message is in flight:
-- SQS says of a later one that the handle has expired. Another receiver may be about to have the message.

local time = now()
local number, answers = #ARGV / 2, {}
local faults = redis.call('HGET', attributes, 'faults')
for index = 1, number do
  local id, seed = ARGV[index], ARGV[number + index]
  local entry = redis.call('HGET', state, id)
  local deadline = tonumber(redis.call('ZSCORE', in_flight, id))
  answers[index] = 0
  if is_newest(entry, seed) and deadline and deadline > time * 1000 then
    answers[index] = 1
    if not (faults and spend('lose_delete')) then
      take_out({ id }, time)
    end
  end
end
wake_if_ready(time) -- the rest of the group may go on
return answers
