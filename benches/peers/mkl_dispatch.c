/* MKL chooses its kernels by the maker of the CPU first and by its features second, so that on an AMD CPU with AVX-512
   it runs AVX2 code. PyTorch carries MKL inside libtorch_cpu.so but exports the function that asks for the maker; this
   library, loaded first, answers it. MKL then looks at the features, as it does on the other maker's CPUs. */
int mkl_serv_intel_cpu_true(void) { return 1; }
int mkl_serv_intel_cpu(void) { return 1; }
