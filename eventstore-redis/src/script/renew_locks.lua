-- Renews the locks that a transaction still holds.
-- KEYS  the locks
-- ARGV  token of the transaction, TTL in ms
for _, claim in ipairs(KEYS) do
  if redis.call('GET', claim) == ARGV[1] then redis.call('PEXPIRE', claim, ARGV[2]) end
end
