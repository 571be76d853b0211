-- Prelude of the scripts that look at a standard queue: brings it up to date with its inbox and the clock.
--
-- Invariant: a message that is known stands in exactly one of ready, delayed and in_flight, and has a body and a
-- state; its id stays the same wherever it goes. What expires moves on, to ready or to the dead-letter queue; only
-- `delete`, `purge` and the end of the retention remove a message.

-- Removes what is known of messages that stand in none of ready, delayed and in_flight any more.
local function forget(ids)
  if #ids > 0 then
    redis.call('HDEL', body, unpack(ids))
    redis.call('HDEL', state, unpack(ids))
    redis.call('HDEL', details, unpack(ids))
  end
end

-- Puts a message down as the last of any standard queue; `extra`: table of its details.
local function enqueue(queue, id, content, entry, extra)
  redis.call('HSET', queue .. ':body', id, content)
  redis.call('HSET', queue .. ':state', id, entry)
  if next(extra) then
    redis.call('HSET', queue .. ':details', id, cjson.encode(extra))
  end
  redis.call('RPUSH', queue .. ':ready', id)
  wake(queue)
end

-- Turns up to `limit` inbox elements into messages. A body pushed by hand carries no time of its own:
-- it is enqueued when the queue first sees it.
local function adopt(limit, seed, time, default_delay)
  local popped = 0
  while popped < limit do
    local some = math.min(limit - popped, CHUNK)
    local elements = redis.call('LPOP', inbox, some) or {}
    local stamp, bodies, states, now_ready = tostring(time), {}, {}, {}
    local open_envelope, derived_id
    for index, text in ipairs(elements) do
      if text ~= '' then
        if not derived_id then
          open_envelope, derived_id = inbox_readers()
        end
        local id = derived_id(seed, popped + index)
        local content, delay, extra = open_envelope(text, false)
        local count = #bodies
        bodies[count + 1], bodies[count + 2] = id, content or text
        states[count + 1], states[count + 2] = id, stamp
        if extra and next(extra) then
          redis.call('HSET', details, id, cjson.encode(extra))
        end
        delay = delay or default_delay
        if delay > 0 then
          redis.call('ZADD', delayed, tostring(time + delay - 1) .. place_in_ms(popped + index), id)
        else
          now_ready[#now_ready + 1] = id
        end
      end
    end
    if #bodies > 0 then
      redis.call('HSET', body, unpack(bodies))
      redis.call('HSET', state, unpack(states))
    end
    if #now_ready > 0 then
      redis.call('RPUSH', ready, unpack(now_ready))
    end
    if #elements < some then
      return
    end
    popped = popped + some
  end
end

-- What waited in `set` until a time that has come is ready.
local function return_ended(set, time)
  repeat
    local ended = redis.call('ZRANGEBYSCORE', set, '-inf', time * 1000, 'LIMIT', 0, CHUNK)
    if #ended > 0 then
      redis.call('ZREM', set, unpack(ended))
      redis.call('RPUSH', ready, unpack(ended))
    end
  until #ended < CHUNK
end

-- Brings the queue up to date: inbox adopted, ended delays and visibility timeouts.
local function settle(limit, seed, time, settings)
  adopt(limit, seed, time, settings.delay)
  return_ended(delayed, time)
  return_ended(in_flight, time)
end

-- Drops every message past its retention; gives the oldest enqueue time left (text), nil when none is.
local function drop_expired(time, retention)
  local expired, gone, ids, oldest = tostring(time - retention), {}, {}, nil
  local stored = redis.call('HGETALL', state)
  for index = 1, #stored, 2 do
    local enqueued = string.sub(stored[index + 1], 1, 13)
    if enqueued <= expired then
      ids[#ids + 1], gone[stored[index]] = stored[index], true
    elseif not oldest or enqueued < oldest then
      oldest = enqueued
    end
  end
  if #ids > 0 then
    for start = 1, #ids, CHUNK do
      local some = { unpack(ids, start, math.min(start + CHUNK - 1, #ids)) }
      forget(some)
      redis.call('ZREM', delayed, unpack(some))
      redis.call('ZREM', in_flight, unpack(some))
    end
    local waiting = redis.call('LRANGE', ready, 0, -1)
    redis.call('DEL', ready)
    for _, id in ipairs(waiting) do
      if not gone[id] then
        redis.call('RPUSH', ready, id)
      end
    end
  end
  return oldest
end

-- Restores invariant 2.
local function wake_if_ready()
  if redis.call('LLEN', ready) > 0 then
    wake(inbox)
  end
end
