-- COMPLETE: KEYS[1] is the entry; ARGV are token and for how long to remember in ms. Answers 1 or 0,
-- or -1 as a fault (crash.lua): nothing is recorded, and the holder must die.
--
-- Invariant: an entry that another token has claimed or completed is left alone. A lease that ran out
-- without a new claimant still completes: the effect is done, and must be remembered.

local holder = redis.call('HGET', KEYS[1], 'token')
if holder and holder ~= ARGV[1] then
  return 0
end
if crash('after_effect') then
  return -1
end
redis.call('HSET', KEYS[1], 'state', 'completed', 'token', ARGV[1], 'until', (now()) + tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
