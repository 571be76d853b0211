-- RECEIVE: ARGV are the most messages to take, the seed of this call (unique), and a visibility timeout
-- in ms ('' = the queue's). Answers {wait in ms, ready messages left, `slow` of the faults in ms, messages as
-- id, state, id, state ..., their bodies, their details (empty when no message of the queue has any)}.
--
-- Invariant: a message is ready, or in flight under exactly one receipt handle, the newest; there
-- is no moment in which only a client knows of it. A message whose receive count would exceed
-- max_receive_count moves, with its id and enqueue time, to the dead-letter queue instead.
--
-- A receipt handle is `<id>.<seed>`; `state` keeps the seed of the last receive.

local wanted, seed = tonumber(ARGV[1]), ARGV[2]
local time = now()
local stamp = tostring(time)
local settings = queue_settings()
settle(math.max(wanted, 100), seed, time, settings)

local visibility = settings.visibility_timeout
local hidden_until = tostring(time + (tonumber(ARGV[3]) or visibility) - 1)
local expired = tostring(time - settings.retention)
local most_receives, dead_letter_queue = settings.max_receive_count, settings.dead_letter_queue
local fresh = ' 1 ' .. stamp .. ' ' .. seed
local faults = settings.faults and read_faults()
if faults and faults.shuffle then
  shuffle(seed)
end

local function dead_letter(id, content, entry, extra)
  local letter = read_details(extra)
  letter.dead_letter_source = inbox
  forget({ id })
  enqueue(dead_letter_queue, id, content, entry, letter)
end

local marks, bodies, all_details = {}, {}, {}
local taken, extras = 0, redis.call('EXISTS', details) == 1 and {} or nil
while taken < wanted do
  local candidates = redis.call('LPOP', ready, math.min(wanted - taken, CHUNK))
  if not candidates then
    break
  end
  local contents = redis.call('HMGET', body, unpack(candidates))
  local entries = redis.call('HMGET', state, unpack(candidates))
  if extras then
    extras = redis.call('HMGET', details, unpack(candidates))
  end
  local flights, before = {}, taken
  for index, id in ipairs(candidates) do
    local content, entry = contents[index], entries[index]
    if not content or not entry or string.sub(entry, 1, 13) <= expired then
      forget({ id }) -- past its retention, or deleted by hand
    else
      local receives, mark = 1, nil
      if #entry == 13 then
        mark = entry .. fresh
      else
        local enqueued, count, first = read_state(entry)
        receives = count + 1
        mark = enqueued .. ' ' .. receives .. ' ' .. first .. ' ' .. seed
      end
      if most_receives and receives > most_receives then
        dead_letter(id, content, entry, extras and extras[index])
      else
        taken = taken + 1
        local at = 2 * (taken - before)
        marks[2 * taken - 1], marks[2 * taken], bodies[taken] = id, mark, content
        flights[at - 1], flights[at] = hidden_until .. place_in_ms(taken), id -- they return in this order
        if extras then
          all_details[taken] = extras[index]
        end
      end
    end
  end
  if taken > before then
    redis.call('HSET', state, unpack(marks, 2 * before + 1, 2 * taken))
    redis.call('ZADD', in_flight, unpack(flights))
  end
end
if faults and faults.duplicate then
  duplicate(faults, marks, seed)
end

local unseen, left, wait = redis.call('LLEN', inbox), redis.call('LLEN', ready), 0
if left > 0 then
  if unseen == 0 then
    redis.call('RPUSH', inbox, '') -- invariant 2
  end
elseif unseen == 0 then
  wait = next_deadline(time, visibility, delayed)
end
return { wait, unseen + left, faults and faults.slow or 0, marks, bodies, all_details }
