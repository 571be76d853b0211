-- PEEK: ARGV are the most messages to show and the seed of this call. Answers {messages as id, state, id,
-- state ..., their bodies, their details}.
--
-- Invariant: receive counts, handles and visibility stay as they are. Messages in flight are not shown.

local time = now()
local settings = queue_settings()
settle(10000, ARGV[2], time, settings)
drop_expired(time, settings.retention)
wake_if_ready()
local most = tonumber(ARGV[1])
local marks, bodies, all_details = {}, {}, {}

local function show(some)
  for _, id in ipairs(some) do
    local content, entry = redis.call('HGET', body, id), redis.call('HGET', state, id)
    if content and entry then
      local shown = #bodies + 1
      marks[2 * shown - 1], marks[2 * shown] = id, entry
      bodies[shown], all_details[shown] = content, redis.call('HGET', details, id)
    end
  end
end

show(redis.call('LRANGE', ready, 0, most - 1))
if #bodies < most then
  show(redis.call('ZRANGE', delayed, 0, most - #bodies - 1))
end
return { marks, bodies, all_details }
