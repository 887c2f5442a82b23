\d
\d orders
\d+ orders
\d items
\d+ totals
\d+ counts
\d parts
\d+ parts
\dt
\dt+ orders
\di
\ds
\dv
\dm
\df
\df+ twice
\dT
\dT+ mood
\dD
\dn
\dn+
\dp
\du
\dg+
\dx
\dy
\db
\dc
\dC int4
\dd
\ddp
\dE
\des
\deu
\dF
\dL
\do +
\dO
\dP
\drds
\dRp
\dRs
\dS pg_class
\da sum
\dA
\dAc btree int4
\dX
\dconfig work_mem
\l app
\sf twice
\sv totals
\z orders
