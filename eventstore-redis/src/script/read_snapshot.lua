-- Reads the snapshot of a stream, and a page of the events after it. A snapshot that is damaged, or of a version that
-- the stream does not have, is none.
-- KEYS  the snapshot, the stream
-- ARGV  maximum number of events, maximum number of bytes
-- Reply: the version of the snapshot, 0 for none; its data; the events; 1 if there are more
local length, snapshot = redis.pcall('XLEN', KEYS[2]), redis.pcall('HMGET', KEYS[1], 'version', 'data')
local version, data = 0, ''
-- a key that is no stream fails below, like a read without a snapshot
if not error_of(length) and not error_of(snapshot) and snapshot[2] then
  version = snapshot_version(snapshot[1], length) or 0
  if version > 0 then data = snapshot[2] end
end
local from = string.format('%.0f', version + 1)
local events, more = read_page('XRANGE', KEYS[2], from, '+', tonumber(ARGV[1]), tonumber(ARGV[2]))
return { version, data, events, more }
