/* oneDNN's C interface, versions 2 and 3, under one set of names: for gemm.c alone.
 *
 * In version 2 a memory descriptor is a struct that needs no end, in 3 an object; both are a dnnl_memory_desc_t here,
 * zeroed before it is made, passed on with MD_REF, and ended with md_destroy. */
#ifndef CAPTIOND_GPU_HOST_ONEDNN_H
#define CAPTIOND_GPU_HOST_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>

/* md_create: [dims[0], dims[1]], strides in elements; strides NULL: in whatever layout oneDNN prefers.
 * matmul_create: dst = src · weights + bias, bias NULL for none.
 * append_sum: adds what is in dst. */
#if DNNL_VERSION_MAJOR < 3
typedef const dnnl_memory_desc_t *md_ref;
#define MD_REF(md) (&(md))

static inline void md_destroy(dnnl_memory_desc_t *md)
{
    (void)md;
}

static inline dnnl_status_t md_create(dnnl_memory_desc_t *md, dnnl_dims_t dims, dnnl_data_type_t type,
                                      dnnl_dims_t strides)
{
    return strides ? dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides)
                   : dnnl_memory_desc_init_by_tag(md, 2, dims, type, dnnl_format_tag_any);
}

static inline dnnl_status_t md_clone(dnnl_memory_desc_t *md, md_ref from)
{
    *md = *from;
    return dnnl_success;
}

static inline dnnl_status_t matmul_create(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, md_ref src,
                                          md_ref weights, md_ref bias, md_ref dst, dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t desc;
    dnnl_status_t s = dnnl_matmul_desc_init(&desc, src, weights, bias, dst);
    return s != dnnl_success ? s : dnnl_primitive_desc_create(pd, &desc, attr, engine, NULL);
}

static inline dnnl_status_t append_gelu(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_gelu_erf, 0.0f, 0.0f);
}

static inline dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f);
}
#else
typedef const_dnnl_memory_desc_t md_ref;
#define MD_REF(md) (md)

static inline void md_destroy(dnnl_memory_desc_t *md)
{
    dnnl_memory_desc_destroy(*md);
}

static inline dnnl_status_t md_create(dnnl_memory_desc_t *md, dnnl_dims_t dims, dnnl_data_type_t type,
                                      dnnl_dims_t strides)
{
    return strides ? dnnl_memory_desc_create_with_strides(md, 2, dims, type, strides)
                   : dnnl_memory_desc_create_with_tag(md, 2, dims, type, dnnl_format_tag_any);
}

static inline dnnl_status_t md_clone(dnnl_memory_desc_t *md, md_ref from)
{
    return dnnl_memory_desc_clone(md, from);
}

static inline dnnl_status_t matmul_create(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, md_ref src,
                                          md_ref weights, md_ref bias, md_ref dst, dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, engine, src, weights, bias, dst, attr);
}

static inline dnnl_status_t append_gelu(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_gelu_erf, 0.0f, 0.0f);
}

static inline dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}
#endif

#endif
