-- Prelude of the scripts that faults change, while attributes.faults is there (set_faults.lua):
--
--   <name>:faults  HASH  duplicate: a number of messages, or a probability (with a decimal point)
--                        shuffle: 1 · lose_delete: a number of deletions · slow: ms
--   <name>:again   HASH  id -> seed of the first receive of a message that is delivered twice
--
-- Invariant: a fault lets happen what SQS's "at least once, in any order" allows, and loses nothing.

local faults_key = inbox .. ':faults'
local again = inbox .. ':again'

local function read_faults()
  local faults, stored = {}, redis.call('HGETALL', faults_key)
  for index = 1, #stored, 2 do
    faults[stored[index]] = stored[index + 1]
  end
  faults.slow = tonumber(faults.slow) or 0
  return faults
end

-- A number below 1, the same for the same text: Redis gives scripts no randomness of their own.
local function chance(text)
  return tonumber(string.sub(redis.sha1hex(text), 1, 8), 16) / 4294967296
end

-- Counts down a fault that is to happen so many times; whether it happens now.
local function spend(fault)
  if (tonumber(redis.call('HGET', faults_key, fault)) or 0) < 1 then
    return false
  end
  redis.call('HINCRBY', faults_key, fault, -1)
  return true
end

-- Puts the ready messages, at most CHUNK, in another order.
local function shuffle(seed)
  local ids = redis.call('LRANGE', ready, 0, CHUNK - 1)
  if #ids > 1 then
    redis.call('LTRIM', ready, #ids, -1)
    for index = #ids, 2, -1 do
      local other = math.floor(chance(seed .. index) * index) + 1
      ids[index], ids[other] = ids[other], ids[index]
    end
    redis.call('LPUSH', ready, unpack(ids))
  end
end

-- Makes some of the messages just taken ready again, once each: they are delivered again while in flight, or
-- after they were deleted (delete.lua).
local function duplicate(faults, marks, seed)
  local probable = string.find(faults.duplicate, '.', 1, true) and tonumber(faults.duplicate)
  for index = 1, #marks, 2 do
    local id = marks[index]
    if string.find(marks[index + 1], '^%d+ 1 ') then
      local chosen
      if probable then
        chosen = chance(seed .. id) < probable
      else
        chosen = spend('duplicate')
      end
      if chosen then
        redis.call('ZREM', in_flight, id)
        redis.call('RPUSH', ready, id)
        redis.call('HSET', again, id, seed)
      end
    end
  end
end

-- Whether a deletion answers OK and leaves the message be.
local function deletion_fails(id, entry, seed)
  if redis.call('HGET', again, id) == seed then
    redis.call('HDEL', again, id)
    return true
  end
  return is_newest(entry, seed) and spend('lose_delete')
end
