-- Appends events to streams, each append for itself.
-- KEYS, ARGV  as for groups.lua, then each append
-- Reply for each append: as for groups.lua
local replies = {}
while key_at < #KEYS do
  local appends = { take_append() }
  local reply = refusal_of(appends) or add_all(appends)
  if error_of(reply) then return reply end
  replies[#replies + 1] = reply
end
return replies
