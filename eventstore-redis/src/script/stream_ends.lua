-- Replies for each stream with the number of its entries, and with the time at which the last event was recorded or ''; with
-- 0 for a key that no longer exists.
-- KEYS  the streams
local ends = {}
for _, key in ipairs(KEYS) do
  ends[#ends + 1] = tostring(redis.call('XLEN', key))
  ends[#ends + 1] = last_recorded_time(key) or ''
end
return ends
