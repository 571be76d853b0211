-- STATS: ARGV is the seed of this call. Answers {ready, in flight, delayed, age of the oldest in ms}.
--
-- Invariant: every message is counted once. Settling first gives pushed bodies their identity and
-- ends what has ended, so that the counts are those a receiver would meet.

local time = now()
local settings = queue_settings()
settle(10000, ARGV[1], time, settings)
local oldest = drop_expired(time, settings.retention)
wake_if_ready()
return {
  redis.call('LLEN', ready),
  redis.call('ZCARD', in_flight),
  redis.call('ZCARD', delayed),
  oldest and time - tonumber(oldest) or 0,
}
