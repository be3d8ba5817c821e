-- Lets others do what somebody was about to do.
-- KEYS  what is claimed
-- ARGV  who claimed it
for _, claim in ipairs(KEYS) do
  if redis.call('GET', claim) == ARGV[1] then redis.call('DEL', claim) end
end
