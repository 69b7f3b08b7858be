#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# In the guest: what accept() and getpeername() cost with each receiver and without. Started so that the guest's clock
# counts instructions, whatever else the machine does: a nanosecond is an instruction.
trust=10.9.0.0/24
echo "== BPF receiver"
toa-probe bench "tollgate-toa attach --trust $trust" "tollgate-toa detach" 3
echo "== kernel module"
toa-probe bench "insmod /tollgate_toa.ko trust=$trust" "rmmod tollgate_toa" 3
echo "== done"
