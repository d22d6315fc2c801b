// How threads wait for work.
#pragma once

namespace carry {

// OpenMP's threads spin before they sleep. GNU's library spins for some 10 ms,
// and where other processes want the cores, each parallel region then waits
// for a thread that lost its core to spinning ones: 10 to 40 times slower. This
// sets a spin of about 0.5 ms: longer than the gaps between kernels, so that
// none begins by waking a thread (small models train 6% faster than with
// 0.1 ms), and far shorter than a time slice. The library reads the variable
// before main, so the program starts itself anew, once. Who sets
// OMP_WAIT_POLICY or GOMP_SPINCOUNT has decided already.
//
// Call first thing in main; returns if there is nothing to do.
void StartWithShortSpin(char** argv);

}  // namespace carry
