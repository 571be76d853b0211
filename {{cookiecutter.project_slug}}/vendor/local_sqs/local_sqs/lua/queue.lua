-- Prelude of every queue script. KEYS[1] is the queue's name, which is also the key of its inbox.
--
--   <name>                 LIST  inbox: bodies that anybody may RPUSH; an empty element is a wake-up
--   <name>:body            HASH  id -> body
--   <name>:state           HASH  id -> '<enqueue time>', of a message that was received
--                                '<enqueue time> <receive count> <first receive time> <seed of the newest
--                                receipt handle>'; times in ms
--   <name>:details         HASH  id -> JSON: attributes, group_id, deduplication_id,
--                                dead_letter_source; only of a message that has any of them
--   <name>:ready           LIST  ids of the messages that may be received
--   <name>:delayed         ZSET  id -> time at which its delay ends, us
--   <name>:in_flight       ZSET  id -> time at which its visibility timeout ends, us
--   <name>:attributes      HASH  visibility_timeout, retention, delay (ms), max_receive_count, ...
--   <name>:sources         SET   the queues whose dead-letter queue this is
--   <name>:faults, :again        see faults.lua
--
-- A FIFO queue keeps its order in other keys: fifo.lua. Invariants of a standard queue, true after each script:
--   1. A message has its body, its `state`, and exactly one of `ready`, `delayed` and `in_flight`.
--   2. When a message may be received, the inbox is not empty, so that who blocks on the inbox wakes.
-- A message past its retention is dropped by whoever comes upon it, and never shown to anybody.
--
-- One key a kind of fact, not one a message: a script then reads or writes a fact of a whole batch by one
-- command, and commands are what a script's time goes into. Lists and hashes, where a sorted set is not
-- needed: an element of one costs a tenth of the other's. The keys are derived from the name inside the
-- script: a single server, not a cluster.

local inbox = KEYS[1]
local body = inbox .. ':body'
local state = inbox .. ':state'
local details = inbox .. ':details'
local ready = inbox .. ':ready'
local delayed = inbox .. ':delayed'
local in_flight = inbox .. ':in_flight'
local attributes = inbox .. ':attributes'

-- The most elements that a command is given at once: unpack() can take a few times as many.
local CHUNK = 1000

-- Wake whoever blocks on a queue's inbox.
local function wake(queue)
  if redis.call('LLEN', queue) == 0 then
    redis.call('RPUSH', queue, '')
  end
end

-- What an entry of `state` holds: enqueue time (text), receive count, first receive time (text), seed.
local function read_state(entry)
  if #entry == 13 then
    return entry, 0
  end
  local enqueued, count, first, seed = string.match(entry, '^(%d+) (%d+) (%d+) (.*)$')
  return enqueued, tonumber(count), first, seed
end

-- Whether a receipt handle with this seed is a message's newest.
local function is_newest(entry, seed)
  return entry and #entry > 13 and string.sub(entry, -1 - #seed) == ' ' .. seed
end

-- The number of a message in a batch, as digits that put it in its place when appended to a time in ms: a
-- time in us, less than one ms later. Text, since Redis prints a number at several times the cost.
local function place_in_ms(index)
  return index < 900 and 99 + index or 999
end
