-- SET FAULTS: ARGV are faults of faults.lua and their values; an empty value ends the fault, and no ARGV at all
-- every fault.
--
-- Invariant: attributes.faults is there while any fault is, so that queues without faults need not look.

if #ARGV == 0 then
  redis.call('DEL', faults_key, again)
end
for index = 1, #ARGV, 2 do
  if ARGV[index + 1] == '' then
    redis.call('HDEL', faults_key, ARGV[index])
  else
    redis.call('HSET', faults_key, ARGV[index], ARGV[index + 1])
  end
end
if redis.call('EXISTS', faults_key) == 1 then
  redis.call('HSET', attributes, 'faults', '1')
else
  redis.call('HDEL', attributes, 'faults')
end
return 1
