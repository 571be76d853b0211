-- Prelude of the ledger's scripts: whether whoever calls is to die now, a fault for tests (faults.py).
--
--   local_sqs:crashes  HASH  before_effect, after_effect: how many times more
--
-- Invariant: each crash asked for happens once.

local function crash(moment)
  if redis.call('EXISTS', 'local_sqs:crashes') == 0 then
    return false
  end
  if redis.call('HINCRBY', 'local_sqs:crashes', moment, -1) < 0 then
    redis.call('HDEL', 'local_sqs:crashes', moment)
    return false
  end
  return true
end
