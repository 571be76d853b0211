-- Prelude of every queue script. KEYS[1] is the queue's name, which is also the key of its inbox.
--
--   <name>                 LIST  inbox: bodies that anybody may RPUSH; an empty element is a wake-up
--   <name>:message:<id>    HASH  one message
--   <name>:ready           ZSET  id -> time from which it may be received (a delay is a later time)
--   <name>:in_flight       ZSET  id -> time at which its visibility timeout ends
--   <name>:sent            ZSET  id -> enqueue time, for its age and its retention
--   <name>:attributes      HASH  visibility_timeout, retention, delay (ms), max_receive_count, ...
--
-- Invariants, true after each script:
--   1. A message has its hash, its `sent` entry, and exactly one of `ready` and `in_flight`.
--   2. When a message may be received, the inbox is not empty, so that who blocks on the inbox wakes.
--
-- The message keys are derived from the name inside the script: a single server, not a cluster.

local inbox = KEYS[1]
local ready = inbox .. ':ready'
local in_flight = inbox .. ':in_flight'
local sent = inbox .. ':sent'
local attributes = inbox .. ':attributes'

local function message_key(id)
  return inbox .. ':message:' .. id
end

-- Wake whoever blocks on a queue's inbox.
local function wake(queue)
  if redis.call('LLEN', queue) == 0 then
    redis.call('RPUSH', queue, '')
  end
end

-- Restores invariant 2.
local function wake_if_ready(time)
  if #redis.call('ZRANGEBYSCORE', ready, '-inf', time, 'LIMIT', 0, 1) > 0 then
    wake(inbox)
  end
end

-- Removes messages: at most 1000, what unpack() can take.
local function remove(ids)
  if #ids == 0 then
    return
  end
  local keys = {}
  for index, id in ipairs(ids) do
    keys[index] = message_key(id)
  end
  redis.call('DEL', unpack(keys))
  redis.call('ZREM', sent, unpack(ids))
  if redis.call('ZREM', in_flight, unpack(ids)) < #ids then
    redis.call('ZREM', ready, unpack(ids))
  end
end

-- From when the `index`th message that one script puts down at `time` and `rest` may be received. The
-- fraction keeps messages in the order in which they came (a standard queue promises none, but people
-- read logs); the sum stays below `time`, and within what a double can tell apart.
local function visible_from(time, rest, delay, index)
  return time + delay - 2 + rest + math.min(index, 4095) / 4096
end

-- The attributes as numbers, or SQS's defaults; times in ms.
local function queue_settings()
  local stored = redis.call('HMGET', attributes, 'visibility_timeout', 'retention', 'delay',
    'max_receive_count', 'dead_letter_queue')
  return {
    visibility_timeout = tonumber(stored[1]) or 30000,
    retention = tonumber(stored[2]) or 345600000,
    delay = tonumber(stored[3]) or 0,
    max_receive_count = tonumber(stored[4]),
    dead_letter_queue = stored[5],
  }
end

local OPTIONAL_TEXT = { 'group_id', 'deduplication_id' }
local KNOWN = { body = true, attributes = true, group_id = true, deduplication_id = true, delay = true }

local function valid_attributes(given)
  local count = 0
  for name, attribute in pairs(given) do
    count = count + 1
    if type(name) ~= 'string' or type(attribute) ~= 'table' or type(attribute.dataType) ~= 'string' then
      return false
    end
    local base = string.match(attribute.dataType, '^%a+')
    local text, binary = attribute.stringValue, attribute.binaryValue
    if base == 'Binary' then
      if type(binary) ~= 'string' or #binary % 4 ~= 0 or not string.find(binary, '^[%w+/]*=?=?$') then
        return false
      end
    elseif (base ~= 'String' and base ~= 'Number') or type(text) ~= 'string' then
      return false
    end
  end
  return count <= 10
end

-- What {"$message": {...}} says, or nil when the text is not a well-formed envelope: it is a body then.
local function open_envelope(text)
  if not string.find(text, '^%s*[{]%s*"$message"') then
    return nil
  end
  local decoded, document = pcall(cjson.decode, text)
  if not decoded or type(document) ~= 'table' then
    return nil
  end
  local message = document['$message']
  document['$message'] = nil
  if next(document) ~= nil or type(message) ~= 'table' then
    return nil
  end
  for field in pairs(message) do
    if not KNOWN[field] then
      return nil
    end
  end
  if type(message.body) ~= 'string' or message.body == '' then
    return nil
  end
  local optional = {}
  for _, field in ipairs(OPTIONAL_TEXT) do
    if message[field] ~= nil then
      if type(message[field]) ~= 'string' then
        return nil
      end
      optional[#optional + 1] = field
      optional[#optional + 1] = message[field]
    end
  end
  local delay
  if message.delay ~= nil then
    delay = message.delay
    if type(delay) ~= 'number' or not (delay >= 0 and delay <= 900) then
      return nil
    end
    delay = math.floor(delay * 1000)
  end
  if message.attributes ~= nil then
    if type(message.attributes) ~= 'table' or not valid_attributes(message.attributes) then
      return nil
    end
    if next(message.attributes) ~= nil then
      optional[#optional + 1] = 'attributes'
      optional[#optional + 1] = cjson.encode(message.attributes)
    end
  end
  return message.body, delay, optional
end

-- Redis gives scripts no randomness of their own: the caller brings `seed`, unique to this call.
local function derived_id(seed, index)
  local hash = redis.sha1hex(seed .. ':' .. index)
  return string.format('%s-%s-4%s-a%s-%s', string.sub(hash, 1, 8), string.sub(hash, 9, 12),
    string.sub(hash, 13, 15), string.sub(hash, 16, 18), string.sub(hash, 19, 30))
end

-- Turns up to `limit` inbox elements into messages. A body pushed by hand carries no time of its own:
-- it is enqueued when the queue first sees it.
local function adopt(limit, seed, time, rest, default_delay)
  local elements = redis.call('LPOP', inbox, limit)
  if not elements then
    return
  end
  for index, text in ipairs(elements) do
    if text ~= '' then
      local body, delay, optional = open_envelope(text)
      local id = derived_id(seed, index)
      redis.call('HSET', message_key(id), 'body', body or text, 'sent_timestamp', time, unpack(optional or {}))
      redis.call('ZADD', sent, time, id)
      redis.call('ZADD', ready, visible_from(time, rest, delay or default_delay, index), id)
    end
  end
end

-- Brings the queue up to date: inbox adopted, expired flights returned, messages past their
-- retention dropped.
local function settle(limit, seed, time, rest, settings)
  adopt(limit, seed, time, rest, settings.delay)
  local expired = redis.call('ZRANGEBYSCORE', in_flight, '-inf', time, 'WITHSCORES', 'LIMIT', 0, 1000)
  for index = 1, #expired, 2 do
    redis.call('ZREM', in_flight, expired[index])
    redis.call('ZADD', ready, expired[index + 1], expired[index])
  end
  remove(redis.call('ZRANGEBYSCORE', sent, '-inf', time - settings.retention, 'LIMIT', 0, 1000))
end
