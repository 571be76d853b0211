-- CLAIM: KEYS[1] is the entry; ARGV are token, lease in ms, and for how long entries are kept in ms.
-- Answers {'claimed' | 'completed' | 'held', ms of the holder's lease left}; -1 ms is a fault (crash.lua): the
-- claim is made, and its holder must die.
--
-- Invariant: at any time at most one token holds an entry, and a completed entry is never claimed
-- again until it is forgotten. A lease that has run out may be taken over by any token.

local token, lease, remember = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = now()
local entry = redis.call('HMGET', KEYS[1], 'state', 'token', 'until')
local state, holder, deadline = entry[1], entry[2], tonumber(entry[3])
if state and deadline > time then
  if state == 'completed' then
    return { 'completed', 0 }
  end
  if holder ~= token then
    return { 'held', deadline - time }
  end
end
redis.call('HSET', KEYS[1], 'state', 'claimed', 'token', token, 'until', time + lease)
-- The clock never runs slower than the server's, so the server's own expiry is late, never early.
redis.call('PEXPIRE', KEYS[1], math.max(lease, remember))
return { 'claimed', crash('before_effect') and -1 or 0 }
