-- As `lock_bound.sql`, in a transaction that may append again: its first lock bounds its later positions too, as these are
-- drawn later. A lock for each append would fill the lock table of the server, in which no other transaction finds room then.
--
-- Invariant: the setting of `appended_in.sql` names the schema only while the transaction holds the lock. The release of the
-- append's savepoint hands the lock to the surrounding subtransaction, which then makes the setting; so a rollback to a
-- savepoint undoes both or none.
CASE WHEN NOT {appended_in} THEN {lock_bound} END
