-- PURGE: removes every message, in flight or not, and what lies in the inbox. Answers how many.
--
-- Invariant: the attributes stay.

local removed = redis.call('ZCARD', sent)
for _, text in ipairs(redis.call('LRANGE', inbox, 0, -1)) do
  if text ~= '' then
    removed = removed + 1
  end
end
redis.call('DEL', inbox, body, details, received, ready, in_flight, sent)
return removed
