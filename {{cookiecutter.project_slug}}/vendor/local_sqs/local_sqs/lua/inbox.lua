-- Prelude of the scripts that look at a queue of either kind: its attributes, and what lies in its inbox.
--
-- Invariant: nothing pushed is dropped but the empty element, which only wakes receivers. A server that is out
-- of memory refuses the first command that could need some, and what a script did before that stays done: so
-- each begins with such a command, before it takes anything from anywhere.

redis.call('SADD', 'local_sqs:queues', inbox) -- whom advance_clock.lua wakes

-- The attributes as numbers, or SQS's defaults; times in ms.
local function queue_settings()
  local stored = redis.call('HMGET', attributes, 'visibility_timeout', 'retention', 'delay',
    'max_receive_count', 'dead_letter_queue', 'content_based_deduplication', 'faults')
  return {
    visibility_timeout = tonumber(stored[1]) or 30000,
    retention = tonumber(stored[2]) or 345600000,
    delay = tonumber(stored[3]) or 0,
    max_receive_count = tonumber(stored[4]),
    dead_letter_queue = stored[5],
    content_based_deduplication = stored[6] == '1',
    faults = stored[7],
  }
end

-- The details of a message as a table, empty when it has none: no writing by hand may stop the queue.
local function read_details(text)
  local decoded, document = pcall(cjson.decode, text or '')
  return decoded and type(document) == 'table' and document or {}
end

-- For how many ms nothing can become visible without the inbox waking the caller, who may sleep now:
-- messages that others take meanwhile stay invisible for at least the queue's visibility timeout. `waiting`:
-- the sorted set of what waits without being in flight.
local function next_deadline(time, visibility, waiting)
  local wait = visibility
  for _, set in ipairs({ waiting, in_flight }) do
    local head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
    if head[2] then
      wait = math.min(wait, math.ceil(tonumber(head[2]) / 1000 - time))
    end
  end
  return wait
end

-- The readers of what was pushed: open_envelope and derived_id. In a function, since most looks at a queue find
-- nothing pushed, and to define them all costs as much as several commands.
local function inbox_readers()
  -- What SQS allows as MessageGroupId and MessageDeduplicationId.
  local function valid_id(text)
    return type(text) == 'string' and #text <= 128 and string.find(text, '^[!-~]+$')
  end

  local OPTIONAL_TEXT = { 'group_id', 'deduplication_id' }
  local KNOWN = { body = true, attributes = true, group_id = true, deduplication_id = true, delay = true,
    trace_header = true }
  local ATTRIBUTE = { dataType = true, stringValue = true, binaryValue = true }

  -- Whether XML 1.0 knows all characters of a text, as SQS demands; of the text's bytes those that are no UTF-8
  -- are left to who receives it.
  local function valid_text(text)
    return not string.find(text, '[%z\1-\8\11\12\14-\31]')
      and not string.find(text, '\239\191[\190\191]') and not string.find(text, '\237[\160-\191]')
  end

  local function valid_number(text)
    local mantissa, power = string.match(text, '^[+-]?([%d.]+)(.*)$')
    if not mantissa or not string.find(mantissa, '^%d*%.?%d*$') or mantissa == '.'
      or (power ~= '' and not string.find(power, '^[eE][+-]?%d+$')) then
      return false
    end
    local digits = string.gsub(string.gsub(mantissa, '%.', ''), '^0+', '')
    digits = string.gsub(string.reverse(digits), '^0+', '')
    local value = tonumber(text)
    return #digits <= 38 and value >= -1e128 and value <= 1e126
  end

  local function valid_name(name)
    if #name > 256 or not string.find(name, '^[%w_.-]+$') or string.find(name, '^%.') or string.find(name, '%.$')
      or string.find(name, '..', 1, true) then
      return false
    end
    local lower = string.lower(name)
    return not string.find(lower, '^aws%.') and not string.find(lower, '^amazon%.')
  end

  -- Bytes that a value in base64 stands for.
  local function decoded_size(value)
    return #value / 4 * 3 - (string.find(value, '==$') and 2 or string.find(value, '=$') and 1 or 0)
  end

  -- The rules of limits.py, by which `send` refuses attributes; their size in bytes when they keep to them.
  local function valid_attributes(given)
    local count, size = 0, 0
    for name, attribute in pairs(given) do
      count = count + 1
      if type(name) ~= 'string' or not valid_name(name) or type(attribute) ~= 'table' then
        return false
      end
      for field, value in pairs(attribute) do
        if not ATTRIBUTE[field] or (type(value) ~= 'string' and value ~= cjson.null) then
          return false
        end
      end
      local kind, text, binary = attribute.dataType, attribute.stringValue, attribute.binaryValue
      if type(kind) ~= 'string' or #kind > 256 then
        return false
      end
      local base = string.match(kind, '^[^.]*')
      local value, other = text, binary
      if base == 'Binary' then
        value, other = binary, text
      end
      if type(value) ~= 'string' or value == '' or type(other) == 'string' then
        return false
      end
      if base == 'Binary' then
        if #value % 4 ~= 0 or not string.find(value, '^[%w+/]+=?=?$') then
          return false
        end
        size = size + decoded_size(value)
      elseif base == 'Number' then
        if not valid_number(value) then
          return false
        end
      elseif base ~= 'String' or not valid_text(value) then
        return false
      end
      if base ~= 'Binary' then
        size = size + #value
      end
      size = size + #name + #kind
    end
    return count <= 10 and size
  end

  local function valid_trace_header(text)
    local rest = type(text) == 'string' and string.match(text, '^Root=1%-%x%x%x%x%x%x%x%x%-'
      .. string.rep('%x', 24) .. '(.*)$')
    return rest and not string.find(rest, '[^ -~]') and (rest == '' or string.find(rest, '^;'))
      and not string.find(rest .. ';', ';[^;=]+;')
  end

  -- What {"$message": {...}} says: body, delay in ms, details. nil when the text is not a well-formed
  -- envelope, or asks for what SQS refuses on this kind of queue (a deduplication id on a standard queue, a
  -- delay on a FIFO queue): it is a body then.
  local function open_envelope(text, fifo)
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
    if type(message.body) ~= 'string' or message.body == '' or not valid_text(message.body) then
      return nil
    end
    local extra = {}
    for _, field in ipairs(OPTIONAL_TEXT) do
      if message[field] ~= nil then
        if not valid_id(message[field]) then
          return nil
        end
        extra[field] = message[field]
      end
    end
    if message.trace_header ~= nil then
      if not valid_trace_header(message.trace_header) then
        return nil
      end
      extra.trace_header = message.trace_header
    end
    if message.deduplication_id and not fifo then
      return nil
    end
    local delay
    if message.delay ~= nil then
      delay = message.delay
      if type(delay) ~= 'number' or not (delay >= 0 and delay <= (fifo and 0 or 900)) then
        return nil
      end
      delay = math.floor(delay * 1000)
    end
    local size = #message.body
    if message.attributes ~= nil then
      local theirs = type(message.attributes) == 'table' and valid_attributes(message.attributes)
      if not theirs then
        return nil
      end
      size = size + theirs
      if next(message.attributes) ~= nil then
        extra.attributes = message.attributes
      end
    end
    if size > 1048576 then
      return nil
    end
    return message.body, delay, extra
  end

  -- Redis gives scripts no randomness of their own: the caller brings `seed`. A caller that lost the answer
  -- calls again with the same seed, and may find other messages then: hence the number of the run.
  local run = redis.call('INCR', 'local_sqs:runs')
  local function derived_id(seed, index)
    local hash = redis.sha1hex(seed .. ':' .. run .. ':' .. index)
    return string.format('%s-%s-4%s-a%s-%s', string.sub(hash, 1, 8), string.sub(hash, 9, 12),
      string.sub(hash, 13, 15), string.sub(hash, 16, 18), string.sub(hash, 19, 30))
  end

  return open_envelope, derived_id
end
