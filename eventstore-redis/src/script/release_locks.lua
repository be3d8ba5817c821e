-- Releases the locks that a transaction still holds.
-- KEYS  the locks
-- ARGV  token of the transaction
for _, claim in ipairs(KEYS) do
  if redis.call('GET', claim) == ARGV[1] then redis.call('DEL', claim) end
end
