-- SEND: ARGV are groups of three: id, body, and '' or '<delay in ms, - for the queue's> <details: JSON or
-- nothing>'.
--
-- Invariant: an id is enqueued once. A client that lost the connection before the answer sends the
-- same ids again, and finds them there.

local time = now()
local stamp = tostring(time)
local default_delay = tonumber(redis.call('HGET', attributes, 'delay')) or 0
local ids, bodies, states = {}, {}, {}
for index = 1, #ARGV, 3 do
  local count, id = #bodies, ARGV[index]
  ids[#ids + 1] = id
  bodies[count + 1], bodies[count + 2] = id, ARGV[index + 1]
  states[count + 1], states[count + 2] = id, stamp
end

local known = {}
if redis.call('HSET', body, unpack(bodies)) < #ids then
  states = {} -- sent before: the bodies are the same, the states are not
  for place, entry in ipairs(redis.call('HMGET', state, unpack(ids))) do
    known[ids[place]] = entry
    if not entry then
      states[#states + 1] = ids[place]
      states[#states + 1] = stamp
    end
  end
end

local now_ready = {}
for place, id in ipairs(ids) do
  if not known[id] then
    local delay, extra = default_delay, ARGV[place * 3]
    if extra ~= '' then
      local own, packed = string.match(extra, '^(%S+) (.*)$')
      delay = tonumber(own) or default_delay
      if packed ~= '' then
        redis.call('HSET', details, id, packed)
      end
    end
    if delay > 0 then
      redis.call('ZADD', delayed, tostring(time + delay - 1) .. place_in_ms(place), id)
    else
      now_ready[#now_ready + 1] = id
    end
  end
end
if #states > 0 then
  redis.call('HSET', state, unpack(states))
  if #now_ready > 0 then
    redis.call('RPUSH', ready, unpack(now_ready))
  end
  wake(inbox) -- also for a delayed message: a sleeper must learn of the earlier deadline
end
return 1
