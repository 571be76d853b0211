-- PURGE: removes every message, in flight or not, and what lies in the inbox. Answers how many.
--
-- Invariant: the attributes stay.

local ids = redis.call('ZRANGE', sent, 0, -1)
local inbox_length = 0
for _, text in ipairs(redis.call('LRANGE', inbox, 0, -1)) do
  if text ~= '' then
    inbox_length = inbox_length + 1
  end
end
for _, id in ipairs(ids) do
  redis.call('DEL', message_key(id))
end
redis.call('DEL', inbox, ready, in_flight, sent)
return #ids + inbox_length
