-- Replies with the number of entries in a stream, which is the number in the last one's id.
-- KEYS  the stream
-- Reply: `ok` and the number, or `damaged`, key and entry
local length, refusal = checked_length_of(KEYS[1])
if length then return { 'ok', tostring(length) } end
if refusal[1] == 'failed' then return redis.error_reply(refusal[2]) end
return refusal
