-- PEEK: ARGV are the most messages to show and the seed of this call.
--
-- Invariant: receive counts, handles and visibility stay as they are. Messages in flight are not shown.

local time, rest = now()
settle(10000, ARGV[2], time, rest, queue_settings())
wake_if_ready(time)
local shown = {}
for _, id in ipairs(redis.call('ZRANGE', ready, 0, tonumber(ARGV[1]) - 1)) do
  local message = redis.call('HMGET', message_key(id), 'body', 'sent_timestamp', 'receive_count',
    'first_receive_timestamp', 'attributes', 'group_id', 'deduplication_id', 'dead_letter_source')
  if message[1] then
    message[9] = id
    shown[#shown + 1] = message
  end
end
return shown
