-- Renews the locks that a transaction still holds.
-- KEYS  the locks
-- ARGV  token of the transaction, TTL in ms
for _, lock in ipairs(KEYS) do
  if redis.call('GET', lock) == ARGV[1] then redis.call('PEXPIRE', lock, ARGV[2]) end
end
