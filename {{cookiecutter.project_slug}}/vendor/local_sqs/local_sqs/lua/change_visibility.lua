-- CHANGE VISIBILITY: ARGV are id and seed, the halves of a receipt handle, and the new visibility timeout
-- in ms, from now on.
--
-- Invariant: only the newest receipt handle moves a message's deadline, and only while the message is
-- in flight (SQS: MessageNotInflight).

local id, seed = ARGV[1], ARGV[2]
if not is_newest(redis.call('HGET', state, id), seed) then
  return 0
end
local time = now() * 1000
local deadline = tonumber(redis.call('ZSCORE', in_flight, id))
if not deadline or deadline <= time then
  return 0
end
local changed = time + tonumber(ARGV[3]) * 1000
redis.call('ZADD', in_flight, changed, id)
if changed < deadline then
  wake(inbox) -- sleepers count on the old deadline
end
return 1
