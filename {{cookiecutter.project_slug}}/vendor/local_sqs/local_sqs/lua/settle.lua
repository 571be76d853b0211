-- Prelude of the scripts that look at the queue: brings it up to date with its inbox and with the clock.

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

-- Restores invariant 2.
local function wake_if_ready(time)
  if #redis.call('ZRANGEBYSCORE', ready, '-inf', time * 1000, 'LIMIT', 0, 1) > 0 then
    wake(inbox)
  end
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

-- What {"$message": {...}} says: body, delay in ms, details as JSON. nil when the text is not a
-- well-formed envelope: it is a body then.
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
  local extra = {}
  for _, field in ipairs(OPTIONAL_TEXT) do
    if message[field] ~= nil then
      if type(message[field]) ~= 'string' then
        return nil
      end
      extra[field] = message[field]
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
      extra.attributes = message.attributes
    end
  end
  return message.body, delay, next(extra) and cjson.encode(extra)
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
  local popped = 0
  local stamp = tostring(time)
  local from = just_before(time, rest, limit)
  while popped < limit do
    local some = math.min(limit - popped, CHUNK)
    local elements = redis.call('LPOP', inbox, some) or {}
    local bodies, all_details, enqueued, visible = {}, {}, {}, {}
    for index, text in ipairs(elements) do
      if text ~= '' then
        local place = popped + index
        local id = derived_id(seed, place)
        local content, delay, extra = open_envelope(text)
        local count = #bodies
        bodies[count + 1], bodies[count + 2] = id, content or text
        enqueued[count + 1], enqueued[count + 2] = stamp, id
        visible[count + 1], visible[count + 2] = from + (delay or default_delay) * 1000 + place, id
        if extra then
          all_details[#all_details + 1] = id
          all_details[#all_details + 1] = extra
        end
      end
    end
    put(bodies, all_details, enqueued, visible)
    if #elements < some then
      return
    end
    popped = popped + some
  end
end

-- Brings the queue up to date: inbox adopted, expired flights returned, messages past their
-- retention dropped.
local function settle(limit, seed, time, rest, settings)
  adopt(limit, seed, time, rest, settings.delay)
  local expired = redis.call('ZRANGEBYSCORE', in_flight, '-inf', time * 1000, 'WITHSCORES', 'LIMIT', 0, CHUNK)
  for index = 1, #expired, 2 do
    redis.call('ZREM', in_flight, expired[index])
    redis.call('ZADD', ready, expired[index + 1], expired[index])
  end
  remove(redis.call('ZRANGEBYSCORE', sent, '-inf', time - settings.retention, 'LIMIT', 0, CHUNK))
end
