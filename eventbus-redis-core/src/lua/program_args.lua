local at = 0

local function take()
  at = at + 1
  return ARGV[at]
end

-- Returns the error's text if a reply is an error.
local function error_of(reply) return type(reply) == 'table' and reply.err end

-- Codes of errors by which the server refuses all writes for now: full memory, a replica, a full disk, no replicas.
local OF_SERVER = { OOM = true, READONLY = true, MASTERDOWN = true, MISCONF = true, NOREPLICAS = true }

-- Returns `true` if an error has such a code: a script's first write fails with it, so the script has written no key.
local function is_of_server(reason) return OF_SERVER[string.match(reason, '^%u+')] end
