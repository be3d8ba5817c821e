-- The format of keys and entries, in a hash `meta` beside them: `format` is what the newest release has written,
-- `min_reader` the lowest format that a reader must know. So an older release works beside a newer one whose format
-- only adds to its own.

-- Returns the reply of a script that refuses: the recorded format is too new for a release that knows `known`.
local function format_too_new(meta, known)
  local found = redis.call('HMGET', meta, 'format', 'min_reader')
  local format, min_reader = found[1], found[2] or found[1]
  if not format or (tonumber(min_reader) or math.huge) <= tonumber(known) then return nil end
  return { 'too new', format, min_reader }
end

-- Records a format unless one is recorded: then nothing is written, as a server out of memory refuses writes.
local function record_format(meta, format, min_reader)
  if redis.call('HEXISTS', meta, 'format') == 1 then return end
  redis.call('HSET', meta, 'format', format, 'min_reader', min_reader)
end

