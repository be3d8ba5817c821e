-- Lowers the counter if it still has the expected value.
-- KEYS  the counter
-- ARGV  expected value, new value
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
