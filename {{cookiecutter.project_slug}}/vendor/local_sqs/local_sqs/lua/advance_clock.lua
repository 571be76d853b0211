-- ADVANCE CLOCK: ARGV is by how many ms. Answers the new offset.
--
-- Invariant: the offset only grows, and everybody who sleeps until a deadline of the old clock wakes.

local offset = redis.call('INCRBY', 'local_sqs:clock', ARGV[1])
for _, queue in ipairs(redis.call('SMEMBERS', 'local_sqs:queues')) do
  if redis.call('LLEN', queue) == 0 then
    redis.call('RPUSH', queue, '')
  end
end
return offset
