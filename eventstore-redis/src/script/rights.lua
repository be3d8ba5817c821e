-- Returns the text of an error, and the command, if the user may not run one of these commands with a key. The server
-- does not roll back a script that it refuses half way: so a script checks the rights of its later writes before its
-- first write.
local function missing_right(key, ...)
  for _, name in ipairs({ ... }) do
    -- servers that only resemble Redis may lack this function
    if redis.acl_check_cmd and not redis.acl_check_cmd(name, key, key, key) then
      return 'NOPERM the user has no right to run ' .. name, name
    end
  end
end

