-- PURGE: removes every message, in flight or not, and what lies in the inbox. Answers how many.
--
-- Invariant: the attributes stay. A FIFO queue (fifo.lua) forgets its deduplication ids, but goes on counting.

local removed = redis.call('HLEN', state)
for _, text in ipairs(redis.call('LRANGE', inbox, 0, -1)) do
  if text ~= '' then
    removed = removed + 1
  end
end
redis.call('DEL', inbox, body, state, details, ready, delayed, in_flight)
for _, kind in ipairs({ 'again', 'sent', 'order', 'place', 'blocked', 'duplicates', 'duplicates_end' }) do
  redis.call('DEL', inbox .. ':' .. kind)
end
return removed
