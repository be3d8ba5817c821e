-- Keeps a snapshot of a version that its stream has, unless there is one of the same or a later version.
-- KEYS  the snapshot, the stream
-- ARGV  version, data
-- Reply: 1 if the snapshot is kept, or else 0
local length = redis.call('XLEN', KEYS[2])
local version = snapshot_version(ARGV[1], length)
if not version then return 0 end
local kept = redis.pcall('HGET', KEYS[1], 'version')
if error_of(kept) then
  -- another client put a value of a different type there
  redis.call('UNLINK', KEYS[1])
elseif (snapshot_version(kept, length) or 0) >= version then
  return 0
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'taken_at', time[1] .. string.format('%06d', time[2]), 'data', ARGV[2])
return 1
