-- Prelude of the scripts of a FIFO queue, whose name ends in `.fifo`. Of the keys in queue.lua `ready` means
-- something else here, and there are more:
--
--   <name>:ready           ZSET  group -> time from which its first message may be received, us
--   <name>:sent            ZSET  id -> enqueue time, ms
--   <name>:order           ZSET  '<group> <sequence number> <id>', all with score 0 and so in this order
--   <name>:place           HASH  id -> '<group> <sequence number>'
--   <name>:blocked         HASH  group -> how many of its messages are in flight
--   <name>:delayed         ZSET  id -> time at which its delay ends, us; no longer than that
--   <name>:duplicates      HASH  deduplication id -> '<id> <sequence number>' of the message sent under it
--   <name>:duplicates_end  ZSET  deduplication id -> time until which it stands for that message, ms
--   <name>:sequence        STRING the last sequence number
--
-- Invariants, true after each script:
--   1. A message has its body, `state`, `details`, `sent`, `place` and `order` entries; one in flight is in
--      `in_flight`, too.
--   2. A group that has messages is in `blocked` when one of them is in flight, and else in `ready`.
--   3. When a message may be received, the inbox is not empty.
-- A deduplication id is remembered for its five minutes whatever happens to the message.

local sent = inbox .. ':sent'
local order = inbox .. ':order'
local place = inbox .. ':place'
local blocked = inbox .. ':blocked'
local duplicates = inbox .. ':duplicates'
local duplicates_end = inbox .. ':duplicates_end'

local DEDUPLICATION_INTERVAL = 300000 -- ms
local DEFAULT_GROUP = 'default' -- of what is pushed without a group

-- Group and sequence number of a message.
local function placed(id)
  return string.match(redis.call('HGET', place, id) or '', '^(%S+) (%S+)$')
end

-- The next messages of a group in order, after the first `skipped`. (No group id has a space in it, and '!'
-- comes next after it.)
local function next_of(group, skipped, number)
  local ids = redis.call('ZRANGEBYLEX', order, '[' .. group .. ' ', '(' .. group .. '!', 'LIMIT', skipped, number)
  for index, member in ipairs(ids) do
    ids[index] = string.match(member, '%S+$')
  end
  return ids
end

-- Restores invariant 2 for a group without messages in flight; `from`: us.
local function release(group, from)
  local first = next_of(group, 0, 1)[1]
  if first then
    redis.call('ZADD', ready, math.max(from, tonumber(redis.call('ZSCORE', delayed, first)) or 0), group)
  else
    redis.call('ZREM', ready, group)
  end
end

-- A message of the group is not in flight any more, since `from`.
local function landed(group, from)
  if redis.call('HINCRBY', blocked, group, -1) <= 0 then
    redis.call('HDEL', blocked, group)
    release(group, from)
  end
end

-- The time in us just before `time` in ms, at which the first of up to `number` messages takes effect, each
-- of the others 1 us later; the last still comes before `time`.
local function just_before(time, rest, number)
  return (time - 1 - math.ceil(number / 1000)) * 1000 + rest
end

-- Puts a message down as the last of its group in any FIFO queue; gives its sequence number.
local function enqueue(queue, id, group, content, entry, extra, time, visible)
  local number = string.format('1%019.0f', redis.call('INCR', queue .. ':sequence')) -- 20 digits, as in SQS
  redis.call('HSET', queue .. ':body', id, content)
  redis.call('HSET', queue .. ':state', id, entry)
  redis.call('HSET', queue .. ':details', id, extra)
  redis.call('HSET', queue .. ':place', id, group .. ' ' .. number)
  redis.call('ZADD', queue .. ':order', 0, group .. ' ' .. number .. ' ' .. id)
  redis.call('ZADD', queue .. ':sent', time, id)
  if visible > time * 1000 then
    redis.call('ZADD', queue .. ':delayed', visible, id)
  end
  if redis.call('HEXISTS', queue .. ':blocked', group) == 0 then
    redis.call('ZADD', queue .. ':ready', 'NX', visible, group)
  end
  return number
end

-- The id and sequence number of the message that was sent under this deduplication id within the last five
-- minutes; nil when there is none. (forget_duplicates may have left some of the ids that ended.)
local function original(deduplication_id, time)
  if (tonumber(redis.call('ZSCORE', duplicates_end, deduplication_id)) or 0) <= time then
    return nil
  end
  return string.match(redis.call('HGET', duplicates, deduplication_id) or '', '^(%S+) (%S+)$')
end

-- A message as SendMessage accepts it, visible from `visible` us; gives id and sequence number, the
-- original's for a duplicate.
local function accept(id, group, deduplication_id, content, extra, time, visible)
  local known, number = original(deduplication_id, time)
  if known then
    return known, number
  end
  number = enqueue(inbox, id, group, content, tostring(time), extra, time, visible)
  redis.call('HSET', duplicates, deduplication_id, id .. ' ' .. number)
  redis.call('ZADD', duplicates_end, time + DEDUPLICATION_INTERVAL, deduplication_id)
  return id, number
end

local function forget_duplicates(time)
  local ended = redis.call('ZRANGEBYSCORE', duplicates_end, '-inf', time, 'LIMIT', 0, CHUNK)
  if #ended > 0 then
    redis.call('ZREM', duplicates_end, unpack(ended))
    redis.call('HDEL', duplicates, unpack(ended))
  end
end

-- Removes messages, at most CHUNK, from wherever they are.
local function take_out(ids, time)
  local places, members, groups = redis.call('HMGET', place, unpack(ids)), {}, {}
  for index, id in ipairs(ids) do
    members[index] = (places[index] or '') .. ' ' .. id
  end
  for _, hash in ipairs({ body, details, state, place }) do
    redis.call('HDEL', hash, unpack(ids))
  end
  redis.call('ZREM', sent, unpack(ids))
  redis.call('ZREM', delayed, unpack(ids))
  redis.call('ZREM', order, unpack(members))
  for index, id in ipairs(ids) do
    local group = string.match(members[index], '^%S+')
    if redis.call('ZREM', in_flight, id) == 1 then
      landed(group, time * 1000)
    elseif group then
      groups[group] = true
    end
  end
  for group in pairs(groups) do
    if redis.call('HEXISTS', blocked, group) == 0 and #next_of(group, 0, 1) == 0 then
      redis.call('ZREM', ready, group)
    end
  end
end

-- Turns up to `limit` inbox elements into messages, the first visible just after `from` us. A pushed body
-- without a group belongs to DEFAULT_GROUP; without a deduplication id it is its own original, unless the queue
-- deduplicates by content.
local function adopt(limit, seed, time, from, settings)
  local popped, open_envelope, derived_id = 0, nil, nil
  while popped < limit do
    local some = math.min(limit - popped, CHUNK)
    local elements = redis.call('LPOP', inbox, some) or {}
    for place_in_chunk, text in ipairs(elements) do
      if text ~= '' then
        if not derived_id then
          open_envelope, derived_id = inbox_readers()
        end
        local index = popped + place_in_chunk
        local id = derived_id(seed, index)
        local content, _, extra = open_envelope(text, true)
        content, extra = content or text, extra or {}
        extra.group_id = extra.group_id or DEFAULT_GROUP
        extra.deduplication_id = extra.deduplication_id
          or (settings.content_based_deduplication and sha256(content) or id)
        accept(id, extra.group_id, extra.deduplication_id, content, cjson.encode(extra), time, from + index)
      end
    end
    if #elements < some then
      return
    end
    popped = popped + some
  end
end

-- Brings the queue up to date: deduplication ids forgotten, inbox adopted, expired flights returned, ended
-- delays and messages past their retention dropped. Of the latter and of flights all, so that nobody is shown
-- any, nor counts them; of deduplication ids some.
local function settle(limit, seed, time, rest, settings)
  forget_duplicates(time)
  adopt(limit, seed, time, just_before(time, rest, limit) + settings.delay * 1000, settings)
  local ended
  repeat
    ended = redis.call('ZRANGEBYSCORE', in_flight, '-inf', time * 1000, 'WITHSCORES', 'LIMIT', 0, CHUNK)
    for index = 1, #ended, 2 do
      redis.call('ZREM', in_flight, ended[index])
      landed(placed(ended[index]), tonumber(ended[index + 1]))
    end
  until #ended < 2 * CHUNK
  redis.call('ZREMRANGEBYSCORE', delayed, '-inf', time * 1000)
  repeat
    ended = redis.call('ZRANGEBYSCORE', sent, '-inf', time - settings.retention, 'LIMIT', 0, CHUNK)
    if #ended > 0 then
      take_out(ended, time)
    end
  until #ended < CHUNK
end

-- Restores invariant 3.
local function wake_if_ready(time)
  if #redis.call('ZRANGEBYSCORE', ready, '-inf', time * 1000, 'LIMIT', 0, 1) > 0 then
    wake(inbox)
  end
end
