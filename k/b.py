import ctypes, torch, time, sys
lib=ctypes.CDLL('./bits.so')
P=ctypes.c_void_p; L=ctypes.c_long; I=ctypes.c_int; F=ctypes.c_float
def t(f,n=15):
    r=[]
    for _ in range(n): s=time.perf_counter(); f(); r.append(time.perf_counter()-s)
    r.sort(); return r[len(r)//2]*1e3
torch.set_num_threads(1)
for rows,inp,out in ((128,768,768),(128,768,3072),(128,3072,768),(1024,768,3072)):
    for bits,low,step in ((1,-1.,2.),(1,0.,1.),(2,-2.,1.)):
        u=torch.randint(0,2**bits,(rows,inp)); codes=(low+step*u).float()
        signs=torch.randint(0,2,(out,inp))*2-1
        words=-(-inp//64)
        sh=torch.arange(64)
        wbits=(signs>0).long().reshape(out,words,64)
        W=(wbits<<sh).sum(-1).reshape(out//16,16,words).transpose(1,2).contiguous()
        sums=signs.sum(1).contiguous()
        planes=torch.zeros(bits,rows,words,dtype=torch.int64); y=torch.zeros(rows,out)
        pk=lambda: lib.pack_codes(P(codes.data_ptr()),P(planes.data_ptr()),L(rows),L(inp),L(words),I(bits),F(low),F(step))
        mu=lambda: lib.multiply(P(planes.data_ptr()),P(W.data_ptr()),P(sums.data_ptr()),P(y.data_ptr()),L(rows),L(out),L(words),I(bits),F(low),F(step))
        pk(); mu()
        ref=codes@signs.float().t()
        w32=signs.float(); b=torch.zeros(out)
        print(rows,inp,out,bits,bool((y==ref).all()), 'pack %.2f mul %.2f  float32 %.2f ms'%(t(pk),t(mu),t(lambda: torch.nn.functional.linear(codes,w32,b))))
