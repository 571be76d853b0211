-- SEND: ARGV are groups of four: id, body, delay in ms ('' = the queue's), details (JSON, '' = none).
--
-- Invariant: an id is enqueued once. A client that lost the connection before the answer sends the
-- same ids again, and finds them there.

local time, rest = now()
local default_delay = tonumber(redis.call('HGET', attributes, 'delay')) or 0
local ids = {}
for index = 1, #ARGV, 4 do
  ids[#ids + 1] = ARGV[index]
end
local known = redis.call('ZMSCORE', sent, unpack(ids))
local stamp, from = tostring(time), just_before(time, rest, #ids)
local bodies, all_details, enqueued, visible = {}, {}, {}, {}
for place, id in ipairs(ids) do
  if not known[place] then
    local first = place * 4 - 3
    local count = #bodies
    local delay = tonumber(ARGV[first + 2]) or default_delay
    bodies[count + 1], bodies[count + 2] = id, ARGV[first + 1]
    enqueued[count + 1], enqueued[count + 2] = stamp, id
    visible[count + 1], visible[count + 2] = from + delay * 1000 + place, id
    if ARGV[first + 3] ~= '' then
      all_details[#all_details + 1] = id
      all_details[#all_details + 1] = ARGV[first + 3]
    end
  end
end
if #bodies > 0 then
  put(bodies, all_details, enqueued, visible)
  wake(inbox) -- also for a delayed message: a sleeper must learn of the earlier deadline
end
return 1
