-- RELEASE: KEYS[1] is the entry; ARGV is the token. Answers 1 or 0.
--
-- Invariant: only the holder gives up a claim, and a completed entry stays.

local entry = redis.call('HMGET', KEYS[1], 'state', 'token')
if entry[1] == 'claimed' and entry[2] == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 1
end
return 0
