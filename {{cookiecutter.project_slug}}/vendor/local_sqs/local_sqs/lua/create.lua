-- CREATE: ARGV are attribute names and values; an empty value removes the attribute.
--
-- Invariant: the attributes live in Redis alone, so that every client of the queue agrees on them, and
-- a dead-letter queue keeps messages at least as long as SQS can (14 days) unless it says otherwise:
-- a dead-lettered message keeps its enqueue time, and would else expire on arrival.

for index = 1, #ARGV, 2 do
  if ARGV[index + 1] == '' then
    redis.call('HDEL', attributes, ARGV[index])
  else
    redis.call('HSET', attributes, ARGV[index], ARGV[index + 1])
  end
end
redis.call('SADD', 'local_sqs:queues', inbox)
local dead_letter_queue = redis.call('HGET', attributes, 'dead_letter_queue')
if dead_letter_queue then
  redis.call('HSETNX', dead_letter_queue .. ':attributes', 'retention', 1209600000)
  redis.call('SADD', 'local_sqs:queues', dead_letter_queue)
end
return 1
