-- CREATE: ARGV are attribute names and values; an empty value removes the attribute.
--
-- Invariant: the attributes live in Redis alone, so that every client of the queue agrees on them, and
-- a dead-letter queue keeps messages at least as long as SQS can (14 days) unless it says otherwise:
-- a dead-lettered message keeps its enqueue time, and would else expire on arrival.

local function dead_letter_queue()
  return redis.call('HGET', attributes, 'dead_letter_queue')
end

redis.call('SADD', 'local_sqs:queues', inbox)
local former = dead_letter_queue()
if former then
  redis.call('SREM', former .. ':sources', inbox)
end
for index = 1, #ARGV, 2 do
  if ARGV[index + 1] == '' then
    redis.call('HDEL', attributes, ARGV[index])
  else
    redis.call('HSET', attributes, ARGV[index], ARGV[index + 1])
  end
end
local letters = dead_letter_queue()
if letters then
  redis.call('HSETNX', letters .. ':attributes', 'retention', 1209600000)
  redis.call('SADD', letters .. ':sources', inbox)
  redis.call('SADD', 'local_sqs:queues', letters)
end
return 1
