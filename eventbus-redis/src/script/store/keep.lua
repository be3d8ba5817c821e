-- Keeps others waiting for what somebody is about to do.
-- KEYS  what is claimed
-- ARGV  who claimed it, for how many ms
for _, claim in ipairs(KEYS) do
  if redis.call('GET', claim) == ARGV[1] then redis.call('PEXPIRE', claim, ARGV[2]) end
end
