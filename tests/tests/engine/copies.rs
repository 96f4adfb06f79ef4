//! No operand is copied unasked.

use crate::{cpu, random};
use attentia_backend::{DType, Device};
use attentia_tensor::{Attention, Fallback, Result, Tensor, Var, grad, materialised_bytes};
use attentia_tests::outside::Outside;

#[test]
fn nothing_is_copied_unasked() {
    // The only test of this file in which a reshape has to copy: the counter belongs to the process.
    let device = cpu(1);
    let x = random(1, &[4, 6, 8], DType::F32, &device).unwrap();
    let together = random(3, &[2, 9, 3, 4, 8], DType::F32, &device).unwrap();
    let grouped = random(4, &[2, 9, 8, 8], DType::F32, &device).unwrap();
    let projected = [5, 6, 7].map(|seed| random(seed, &[2, 9, 32], DType::F32, &device).unwrap());
    let cases: [(&str, &dyn Fn() -> Result<Tensor>); 19] = [
        ("transposed product", &|| x.transpose(1, 2)?.matmul(&x)),
        ("broadcast sum", &|| &x + &x.narrow(1, 0, 1)?),
        ("reversed softmax", &|| x.flip(2)?.softmax(-1)),
        ("softmax along another axis", &|| x.softmax(1)),
        ("sliced norm", &|| x.slice(1, .., 2)?.layer_norm(None, None, 1e-5)),
        ("permuted reduction", &|| x.permute(&[2, 0, 1])?.sum(&[0, 2], false)),
        ("reshape that splits a transposed axis", &|| x.transpose(0, 1)?.reshape(&[6, 2, 2, 8])),
        ("reshape of a slice", &|| x.narrow(0, 1, 2)?.reshape(&[-1, 8])),
        ("flatten", &|| x.flatten()),
        ("windows", &|| x.i((.., 1..3, 2..7))?.gelu()),
        ("squeeze", &|| x.narrow(0, 0, 1)?.squeeze(0)?.unsqueeze(1)?.exp()),
        ("cat", &|| Tensor::cat(&[&x.transpose(0, 2)?, &x.transpose(0, 2)?], 1)),
        ("gather", &|| x.transpose(0, 2)?.gather(0, &x.transpose(0, 2)?.argmax(0, true)?)),
        ("sort of a column", &|| Ok(x.transpose(0, 2)?.sort(0, false)?.0)),
        ("cumsum of a column", &|| x.transpose(0, 2)?.cumsum(1)),
        ("embedding with a transposed table", &|| {
            x.select(0, 0)?.t()?.embedding(&Tensor::from_slice(&[3i64, 0], &[2], &device)?)
        }),
        ("attention of q, k and v in one tensor", &|| attended_with_gradient(&together, split_in_three)),
        ("attention of heads that are split and merged", &|| merged_heads_with_gradient(&projected)),
        ("attention of grouped heads in one tensor", &|| attended_with_gradient(&grouped, split_in_groups)),
    ];
    for (name, case) in cases {
        let before = materialised_bytes();
        case().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(materialised_bytes() - before, 0, "{name} copied an operand");
    }
    let before = materialised_bytes();
    x.transpose(0, 1).unwrap().flatten().unwrap();
    assert_eq!(materialised_bytes() - before, 4 * 6 * 8 * 4, "a reshape that can't be a view is counted");
}

/// Views of q, k and v `[B, H, T, D]` in a tensor.
type SplitHeads = fn(&Tensor) -> Result<[Tensor; 3]>;

/// `[B, T, 3, H, D]`
fn split_in_three(packed: &Tensor) -> Result<[Tensor; 3]> {
    let part = |i| packed.select(2, i)?.transpose(1, 2);
    Ok([part(0)?, part(1)?, part(2)?])
}

/// `[B, T, H + 2 H_kv, D]` with four heads on two.
fn split_in_groups(packed: &Tensor) -> Result<[Tensor; 3]> {
    let part = |first, heads| packed.narrow(2, first, heads)?.transpose(1, 2);
    Ok([part(0, 4)?, part(4, 2)?, part(6, 2)?])
}

/// The gradient of attention's output by the tensor that q, k and v are views of, by the kernel.
fn attended_with_gradient(packed: &Tensor, split: SplitHeads) -> Result<Tensor> {
    let leaf = Var::new(packed.clone())?.tensor();
    let [q, k, v] = split(&leaf)?;
    let output = Attention { fallback: Fallback::Deny, ..Attention::new(&q, &k, &v) }.run()?.output;
    let mut gradients = grad(&[&output], Some(&[&weights_of(&output)?]), &[&leaf], false)?;
    Ok(gradients.remove(0).expect("a gradient"))
}

/// The gradient of q by attention's output, both `[B, T, H · D]` outside of it.
fn merged_heads_with_gradient(projected: &[Tensor; 3]) -> Result<Tensor> {
    let leaf = |x: &Tensor| Ok(Var::new(x.clone())?.tensor());
    let [q, k, v] = [leaf(&projected[0])?, leaf(&projected[1])?, leaf(&projected[2])?];
    let heads = |x: &Tensor| x.reshape(&[2, 9, 4, 8])?.transpose(1, 2);
    let [q_heads, k_heads, v_heads] = [heads(&q)?, heads(&k)?, heads(&v)?];
    let attention = Attention { fallback: Fallback::Deny, ..Attention::new(&q_heads, &k_heads, &v_heads) };
    let merged = attention.run()?.output.transpose(1, 2)?.reshape(&[2, 9, 32])?;
    let mut gradients = grad(&[&merged], Some(&[&weights_of(&merged)?]), &[&q, &k, &v], false)?;
    Ok(gradients.remove(0).expect("a gradient"))
}

/// The same for all outputs of a shape.
fn weights_of(output: &Tensor) -> Result<Tensor> {
    random(5, output.shape(), output.dtype(), output.device())
}

#[test]
fn q_k_and_v_in_one_tensor_are_read_where_they_lie() {
    // Many queries, which are packed in blocks, and few, which are read in place; every dtype of the kernel.
    for (t, dtype) in [(40, DType::F32), (3, DType::F32), (40, DType::F64), (40, DType::Bf16), (2, DType::F16)] {
        for (shape, split) in [(vec![2, t, 3, 4, 8], split_in_three as SplitHeads), (vec![2, t, 8, 8], split_in_groups)]
        {
            let (backend, calls) = Outside::counting(cpu(1));
            let device = Device::new(backend);
            let packed = random(1, &shape, dtype, &device).unwrap();
            let [q, k, v] = split(&packed).unwrap();
            let attention = |[q, k, v]: [&Tensor; 3]| {
                Attention { fallback: Fallback::Deny, ..Attention::new(q, k, v) }.run().unwrap().output
            };
            let output = attention([&q, &k, &v]);
            assert_eq!((calls.of("attention"), calls.of("copy")), (1, 0), "{dtype} {shape:?}");

            // The same numbers in tensors of their own, and their gradients in the places of the views.
            let leaves = [&q, &k, &v].map(|x| Var::new(x.copy().unwrap()).unwrap().tensor());
            let apart = attention(leaves.each_ref());
            let close = |a: &Tensor, b: &Tensor| {
                let [a, b] = [a, b].map(|x| x.detach().to_dtype(DType::F64).unwrap().to_vec::<f64>().unwrap());
                let unit = match dtype {
                    DType::F64 => 1e-14,
                    DType::F32 => 1e-5,
                    _ => 0.02,
                };
                assert_eq!(a.len(), b.len());
                a.iter().zip(&b).for_each(|(a, b)| assert!((a - b).abs() <= unit, "{dtype} {shape:?}: {a} {b}"));
            };
            close(&output, &apart);
            let weights = weights_of(&apart).unwrap();
            let gradients = grad(&[&apart], Some(&[&weights]), &leaves.each_ref(), false).unwrap();
            let before = calls.of("attention_backward");
            let together = attended_with_gradient(&packed, split).unwrap();
            assert_eq!(calls.of("attention_backward"), before + 1);
            for (part, gradient) in split(&together).unwrap().iter().zip(gradients) {
                close(part, &gradient.unwrap());
            }
        }
    }
}

#[test]
fn a_strided_operand_is_read_in_place() {
    // No call of `copy`, counted at the backend: the whole step works on views.
    let (backend, calls) = Outside::counting(cpu(1));
    let device = Device::new(backend);
    let w = Var::new(random(1, &[8, 6], DType::F32, &device).unwrap()).unwrap();
    let x = random(2, &[6, 5], DType::F32, &device).unwrap().t().unwrap();
    let loss = x.matmul(&w.tensor().t().unwrap()).unwrap().softmax(0).unwrap().square().unwrap().mean_all().unwrap();
    let grads = loss.backward().unwrap();
    assert_eq!(grads.get(&w).unwrap().shape().as_slice(), [8, 6]);
    assert_eq!(calls.of("copy"), 0);
    assert!(calls.of("matmul") >= 2 && calls.of("softmax") == 1 && calls.of("softmax_backward") == 1);
}
