-- Prelude of every queue script. KEYS[1] is the queue's name, which is also the key of its inbox.
--
--   <name>                 LIST  inbox: bodies that anybody may RPUSH; an empty element is a wake-up
--   <name>:body            HASH  id -> body
--   <name>:details         HASH  id -> JSON: attributes, group_id, deduplication_id,
--                                dead_letter_source; only of a message that has any of them
--   <name>:received        HASH  id -> '<receive count> <first receive time> <seed of the newest receipt
--                                handle>'; only of a message that was received
--   <name>:ready           ZSET  id -> time from which it may be received (a delay is a later time), us
--   <name>:in_flight       ZSET  id -> time at which its visibility timeout ends, us
--   <name>:sent            ZSET  id -> enqueue time, for its age and its retention, ms
--   <name>:attributes      HASH  visibility_timeout, retention, delay (ms), max_receive_count, ...
--
-- Invariants, true after each script:
--   1. A message has its body, its `sent` entry, and exactly one of `ready` and `in_flight`.
--   2. When a message may be received, the inbox is not empty, so that who blocks on the inbox wakes.
--
-- One key a kind of fact, not one a message: a script then reads or writes a fact of a whole batch by one
-- command, and commands are what a script's time goes into. The keys are derived from the name inside the
-- script: a single server, not a cluster.

local inbox = KEYS[1]
local body = inbox .. ':body'
local details = inbox .. ':details'
local received = inbox .. ':received'
local ready = inbox .. ':ready'
local in_flight = inbox .. ':in_flight'
local sent = inbox .. ':sent'
local attributes = inbox .. ':attributes'

-- The most elements that a command is given at once: unpack() can take twice as many.
local CHUNK = 1000

-- Wake whoever blocks on a queue's inbox.
local function wake(queue)
  if redis.call('LLEN', queue) == 0 then
    redis.call('RPUSH', queue, '')
  end
end

-- Removes messages, at most CHUNK.
local function remove(ids)
  if #ids == 0 then
    return
  end
  redis.call('HDEL', body, unpack(ids))
  redis.call('HDEL', details, unpack(ids))
  redis.call('HDEL', received, unpack(ids))
  redis.call('ZREM', sent, unpack(ids))
  if redis.call('ZREM', in_flight, unpack(ids)) < #ids then
    redis.call('ZREM', ready, unpack(ids))
  end
end

-- Puts messages down, at most CHUNK: each argument lists pairs, for HSET (id, value) or ZADD (time, id).
local function put(bodies, all_details, enqueued, visible)
  if #bodies == 0 then
    return
  end
  redis.call('HSET', body, unpack(bodies))
  if #all_details > 0 then
    redis.call('HSET', details, unpack(all_details))
  end
  redis.call('ZADD', sent, unpack(enqueued))
  redis.call('ZADD', ready, unpack(visible))
end

-- The time in us just before `time` in ms, at which the first of up to `number` messages takes effect, each
-- of the others 1 us later. That keeps messages in the order in which they came (a standard queue promises
-- none, but people read logs), and the last still comes before `time`. Whole numbers, since Redis compares
-- and prints fractions at several times the cost.
local function just_before(time, rest, number)
  return (time - 1 - math.ceil(number / 1000)) * 1000 + rest
end

-- The receive count, first receive time (text) and seed that an entry of `received` holds; 0 without one.
local function read_received(entry)
  if not entry then
    return 0
  end
  local count, first, seed = string.match(entry, '^(%d+) (%d+) (.*)$')
  return tonumber(count), first, seed
end
