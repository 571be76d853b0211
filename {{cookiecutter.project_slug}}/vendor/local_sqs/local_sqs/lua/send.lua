-- SEND: ARGV are groups of six: id, body, delay in ms ('' = the queue's), attributes (JSON),
-- group_id, deduplication_id; '' = absent.
--
-- Invariant: an id is enqueued once. A client that lost the connection before the answer sends the
-- same ids again, and finds them there.

local time, rest = now()
local default_delay = queue_settings().delay
local OPTIONAL = { 'attributes', 'group_id', 'deduplication_id' }
local ids = {}
for index = 1, #ARGV, 6 do
  ids[#ids + 1] = ARGV[index]
end
local known = redis.call('ZMSCORE', sent, unpack(ids))
local entered, visible = {}, {}
for position, id in ipairs(ids) do
  if not known[position] then
    local key = message_key(id)
    local first = position * 6 - 5
    redis.call('HSET', key, 'body', ARGV[first + 1], 'sent_timestamp', time)
    for offset, field in ipairs(OPTIONAL) do
      local value = ARGV[first + 2 + offset]
      if value ~= '' then
        redis.call('HSET', key, field, value)
      end
    end
    local delay = tonumber(ARGV[first + 2]) or default_delay
    entered[#entered + 1] = time
    entered[#entered + 1] = id
    visible[#visible + 1] = visible_from(time, rest, delay, position)
    visible[#visible + 1] = id
  end
end
if #entered > 0 then
  redis.call('ZADD', sent, unpack(entered))
  redis.call('ZADD', ready, unpack(visible))
  wake(inbox) -- also for a delayed message: a sleeper must learn of the earlier deadline
end
return 1
