-- Renews a consumer's claim on entries that are still pending on it.
-- KEYS  stream, relay   ARGV  group, consumer, id ...
-- Replies {lost ids: claimed or finished by a different consumer; free ids: not pending, and on no consumer, as the
-- entry was deleted or a recreated group has yet to read it}.
local stream, group, me = KEYS[1], ARGV[1], ARGV[2]
local own, lost, free = {}, {}, {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', stream, group, id, id, 1, me) == 1 then
    own[#own + 1] = id
  elseif #redis.call('XRANGE', stream, id, id) == 1 and not is_unread(stream, group, id) then
    lost[#lost + 1] = id
  else
    free[#free + 1] = id
  end
end
claim(stream, group, me, own, {}, KEYS[2])
return { lost, free }
