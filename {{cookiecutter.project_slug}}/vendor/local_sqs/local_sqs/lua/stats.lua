-- STATS: ARGV is the seed of this call. Answers {ready, in flight, delayed, age of the oldest in ms}.
--
-- Invariant: every message is counted once. Settling first gives pushed bodies their identity and
-- returns expired flights, so that the counts are those a receiver would meet.

local time, rest = now()
settle(10000, ARGV[1], time, rest, queue_settings())
wake_if_ready(time)
local visible = redis.call('ZCOUNT', ready, '-inf', time * 1000)
local all = redis.call('ZCARD', ready)
local oldest = redis.call('ZRANGE', sent, 0, 0, 'WITHSCORES')
return { visible, redis.call('ZCARD', in_flight), all - visible, oldest[2] and time - tonumber(oldest[2]) or 0 }
