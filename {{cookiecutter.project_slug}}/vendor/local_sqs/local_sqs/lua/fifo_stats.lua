-- STATS of a FIFO queue: ARGV is the seed of this call. Answers {ready, in flight, delayed, age of the oldest
-- in ms}.
--
-- Invariant: every message is counted once. As in SQS, what waits in a blocked group counts as ready.

local time, rest = now()
settle(10000, ARGV[1], time, rest, queue_settings())
wake_if_ready(time)
local flying, later = redis.call('ZCARD', in_flight), redis.call('ZCARD', delayed)
local oldest = redis.call('ZRANGE', sent, 0, 0, 'WITHSCORES')
local all = redis.call('ZCARD', sent)
return { all - flying - later, flying, later, oldest[2] and time - tonumber(oldest[2]) or 0 }
